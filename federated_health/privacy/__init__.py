"""Patient-level differential privacy at a hospital: accounting, budget, noise, and what a server may ask.

A run without differential privacy loads nothing of it. What a run promises is declared in `ml.privacy_plan`. Modules
here import from `security` and the layers below it.
"""
