"""Retry, breaker, pool and limiter."""
