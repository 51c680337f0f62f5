"""Publish a bundle on the Hugging Face Hub: as a model repository, a Space and an Inference Endpoint."""
