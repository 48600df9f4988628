"""The operator's console: the routes under /admin. docs/console.md describes them."""
