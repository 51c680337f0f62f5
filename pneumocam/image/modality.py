"""Which DICOM is a radiograph, by its modality and its SOP class."""

from pydicom import FileDataset, uid

from pneumocam.image.errors import NotARadiograph

MODALITIES = ("CR", "DX", "RG", "OT", "DR", "XR")

# Only these may be named to the reader: any other value of the tag could be anything, a name included.
_OTHER_MODALITIES = ("CT", "DOC", "ECG", "ES", "IO", "MG", "MR", "NM", "PT", "PX", "RF", "SEG", "SR", "US", "XA", "XC")
_SOP_CLASSES = {
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalXRayImageStorageForProcessing,
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
    uid.UID("1.2.840.10008.5.1.1.29"),  # Hardcopy Grayscale Image Storage, retired: digitized film
}


def check_modality(dataset: FileDataset) -> None:
    """Refuse a DICOM that is no radiograph.

    Its modality decides, and without one its SOP class. A SOP class of another kind of image is refused whatever the
    modality.

    Raises:
        NotARadiograph: naming what it is, if that is a term of the standard.
    """
    modality = str(dataset.get("Modality") or "").strip(" \0").upper()
    classes = _sop_classes(dataset)
    others = [sop_class for sop_class in classes if sop_class not in _SOP_CLASSES]
    if modality and modality not in MODALITIES:
        came = modality if modality in _OTHER_MODALITIES else "an unknown modality"
    elif others:
        came = f"the type {others[0].name}"
    elif not modality and not classes:
        came = "no modality"
    else:
        return
    raise NotARadiograph(
        f"This DICOM has {came}. Accepted are the radiographs among them: {', '.join(MODALITIES)}; upload the "
        "frontal chest radiograph of the study."
    )


def _sop_classes(dataset: FileDataset) -> list[uid.UID]:
    """Those of the dataset and of its header that the standard knows as storage of an image or a document."""
    found = (dataset.get("SOPClassUID"), dataset.file_meta.get("MediaStorageSOPClassUID"))
    known = [uid.UID(str(value).strip(" \0")) for value in found if value]
    return [value for value in known if value in _SOP_CLASSES or (value.name != value and "Storage" in value.name)]
