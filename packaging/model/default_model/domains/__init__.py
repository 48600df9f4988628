"""Trains a sentiment model on texts of many kinds: film phrases, tweets, products, places, whole reviews."""
