"""Encrypted averaging, both sides: the server sums ciphertexts that it cannot decrypt.

It protects against a server, or its operator, that follows the protocol and is curious. The hospitals make a key of the
CKKS scheme, encrypt what they send, and decrypt the sums that the server returns. All hospitals share one key: a
hospital that gives it, or the ciphertexts that it received, to the server's operator exposes all of them.

Modules here extend `server` and `hospital` and import from them and from the layers below.
"""
