"""How messages travel: one Transport interface, for hospitals over gRPC streams, in process and in Flower's engines.

Flower's own SuperNode starts a process for every message, which imports TensorFlow every time. Here a hospital's
process stays, and messages travel over one stream of Flower's gRPC service `FlowerService.Join`, each as the one tensor
of a `FitIns` or `FitRes`. Apart from the configuration file that `superlink` writes, only this folder uses Flower's
internals; apps and strategies do not depend on it.

May import `security` (through its loader), `messages` and everything below.
"""
