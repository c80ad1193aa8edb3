"""Federated learning between hospitals: one risk model, and no patient record leaves a hospital."""

__version__ = "0.1.0"
