"""Tasks with known answers, measured through lm-eval."""
