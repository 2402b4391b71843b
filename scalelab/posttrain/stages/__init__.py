"""Stages of post-training, one file each; the table is STAGES in posttrain."""
