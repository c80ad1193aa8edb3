"""Encrypted averaging: the server adds what it cannot read, and only the hospitals hold the key.

Against whom: a server, and its operator, that follow the protocol and want to know. Hospitals make a key of the CKKS
scheme, encrypt what they send, and decrypt the sums that the server sends back. All of them hold the same key: one that
shows it, or what the server sent, to the server's operator gives everybody away.
"""
