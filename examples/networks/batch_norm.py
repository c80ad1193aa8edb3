"""Three dense layers with BatchNormalization and Dropout, written as Keras's own examples are."""

import keras
from keras import layers


def build(features: int, outputs: int) -> keras.Model:
    """Return a network from features to outputs, without an activation at its end."""
    return keras.Sequential(
        [
            keras.Input(shape=(features,)),
            layers.Dense(32, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(16, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Dense(outputs),
        ]
    )
