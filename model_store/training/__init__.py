"""Trains a classifier on labelled texts: tables, recipes, the training loop, the report."""
