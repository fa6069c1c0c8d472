"""Masked image modelling methods: student, EMA teacher, curriculum, target and losses put together."""
