"""Mutated inputs and the check of what a reader makes of one: shared by tests/fuzz and analysis/fuzz.py.

    yaml_files.py      sweep, post-training, evaluation and rates files, and overrides
    run_tables.py      tables of runs
    text_files.py      files of text
    chat_files.py      files of conversations and preference pairs
    readers.py         the functions that read them, each from a path to an answer
    check.py           one input read under a time limit: read, refused, or a fault

Everything is drawn from a seed, so a label and a seed name an input for good.
"""
