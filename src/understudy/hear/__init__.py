"""understudy's teachers as modules of the HEAR benchmark's API, one for each.

    python -m heareval.embeddings.runner understudy.hear.mn04 --tasks-dir tasks

`load_model` takes a file of weights, "random", or nothing for the published one.
"""
