"""Finds the predictions of texts, for requests and jobs: in a queue, a share, a shadow or a cascade."""
