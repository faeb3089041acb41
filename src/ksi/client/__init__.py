"""EventClient, its streams and subscriptions; imports only wire and core."""
