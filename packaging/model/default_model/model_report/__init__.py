"""A report on bias and robustness of the embedded default, with limits that a release must keep."""
