"""Launching: what a sweep or a plan asks for, as jobs that lead to results, once each."""
