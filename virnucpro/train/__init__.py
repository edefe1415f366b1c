"""Fit a classifier to your own sequences, and measure it."""
