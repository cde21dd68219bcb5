"""Trainings that are killed, starved and cut off, thousands of times; what is left must always be enough."""
