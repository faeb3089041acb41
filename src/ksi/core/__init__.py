"""The ground: errors, results, clock, ids, envelope, context, config and the ports that upper rooms implement."""
