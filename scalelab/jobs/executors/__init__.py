"""Executors: where the processes of jobs run, one file each; the table is EXECUTORS in jobs."""
