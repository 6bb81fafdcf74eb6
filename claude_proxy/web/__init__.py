"""HTTP: routes, who may call, one file for each resource. The only room that knows Flask."""
