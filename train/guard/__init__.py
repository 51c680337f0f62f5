"""Fitting and measuring the guard of a bundle: python -m train.guard."""
