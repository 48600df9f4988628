"""Reads files of texts as people have them, and writes them again with labels beside their rows.

Uploads, the page, `classify`, `sample`, `train` and `evaluate` use it, so all of them read a file in the same
way or refuse it in the same words. It knows neither HTTP nor queues nor models.
"""
