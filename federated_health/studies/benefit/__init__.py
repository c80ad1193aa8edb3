"""Is joining worth it? Models with and without the federation, compared by cross-validation on the same patients.

It needs the rows of all hospitals in one place, so it is a study of public, generated or otherwise shared data, and no
part of a federation's run. Every model is fitted in process by the same apps and strategies as over gRPC.
"""
