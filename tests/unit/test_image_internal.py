"""Failures of the service while it reads a sound image: InternalError, never an error of the image."""

import errno
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydicom import uid

import pneumocam
from pneumocam.image import InternalError, RadiographError, load_radiograph
from tests.images import GREYS, dicom, encapsulated, encode, saved

J2K = encapsulated(encode(GREYS, "JPEG2000", no_jp2=True), uid.JPEG2000Lossless, GREYS)


def failure_of_the_service(data: bytes = J2K) -> InternalError:
    with pytest.raises(InternalError) as caught:
        load_radiograph(data)
    error = caught.value
    assert not isinstance(error, RadiographError)
    assert (error.code, str(error)) == ("internal_error", error.message)
    assert error.__suppress_context__ or error.__context__ is None
    return error


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EAGAIN, errno.EMFILE])
def test_no_process_for_the_decoder(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    failure_of_the_service()


@pytest.mark.parametrize("executable", ["", None, "/nowhere/python3", "/nowhere/application"])
def test_no_interpreter_for_the_decoder(executable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    error = failure_of_the_service()
    assert "/nowhere" not in error.message


@pytest.mark.parametrize(
    "script",
    [
        "exit 0",
        "exit 1",
        "echo usage >&2; exit 2",
        "echo something else",
        "kill -9 $$",
        "printf 'ready\\n'; kill -9 $$",
    ],
)
def test_an_interpreter_that_does_not_decode(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    failure_of_the_service()


def test_a_frozen_program_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert "Python" in failure_of_the_service().message
    assert not (tmp_path / "started").exists()


def test_a_decoder_that_is_not_done_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: run(*args, **options | {"timeout": 0.001}))
    failure_of_the_service()


def test_no_memory_for_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_image: Image.Image) -> None:
        raise MemoryError

    data = encode(GREYS, "BMP")
    monkeypatch.setattr(Image.Image, "load", refuse)
    failure_of_the_service(data)


def test_a_package_in_a_zip_reads_what_needs_no_subprocess(tmp_path: Path) -> None:
    package = Path(pneumocam.__file__).parent
    target = tmp_path / "pneumocam.zip"
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("pneumocam/__init__.py", "")
        for path in sorted((package / "image").glob("*.py")):
            archive.write(path, f"pneumocam/image/{path.name}")
    (tmp_path / "j2k.dcm").write_bytes(J2K)
    (tmp_path / "plain.dcm").write_bytes(saved(dicom(GREYS)))
    code = (
        "from pneumocam.image import InternalError, load_radiograph, __file__ as place\n"
        "assert 'pneumocam.zip' in place\n"
        "assert load_radiograph('plain.dcm').width == 80\n"
        "try:\n    load_radiograph('j2k.dcm')\nexcept InternalError as error:\n    print(error.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("internal_error\n", "")


def test_what_the_decoder_itself_refuses_is_the_images_fault() -> None:
    with pytest.raises(RadiographError) as caught:
        load_radiograph(J2K.replace(b"\xff\x52", b"\xff\x00", 1))
    assert caught.value.code == "damaged_image"
