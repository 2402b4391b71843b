"""Engines: what holds the weights and makes a step, in one process or in many."""
