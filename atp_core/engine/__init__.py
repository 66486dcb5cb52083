"""The engine: drives a model's own forward block by block, takes statistics, prunes, goes on."""
