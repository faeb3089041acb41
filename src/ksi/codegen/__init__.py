"""Descriptions made from the registry: OpenAPI, AsyncAPI, TypeScript, Python; and what changed since an older one."""
