"""Fits a classifier to your own sequences, and tells what it is worth."""
