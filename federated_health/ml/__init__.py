"""Networks, compiled training, metrics, bootstrap and normalisation: arrays in, arrays out, no Flower.

May import `data` for what a task declares.
"""
