"""Measuring so that others can compare: tasks of lm-eval, a result schema, paired figures."""
