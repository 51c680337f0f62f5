"""Bring a bundle to the Hugging Face Hub: model repository, Space, static Space, endpoint."""
