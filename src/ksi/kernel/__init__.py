"""Registry, middleware, router, services and plugin loading; no I/O."""
