"""understudy's teachers as modules of the HEAR benchmark's API, one for each, and `student`.

    python -m heareval.embeddings.runner understudy.hear.mn04 --tasks-dir tasks

`load_model` takes a file of weights, "random", or nothing for the published one; that of `student`
takes the folder of an exported one.
"""
