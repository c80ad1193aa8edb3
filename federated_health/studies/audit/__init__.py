"""The attack on ourselves: what the final model, one hospital's updates and the averages give away of its patients.

It needs the rows of all hospitals in one place, as a study does (see `evidence`), and is no part of a federation's run:
whoever attacks knows here more than anybody would, so that what is not found is likely not to be there.
"""
