"""What operators publish: revisions and candidates of a model, and how their results compare."""
