"""Training jobs as Kubernetes Indexed Jobs: the only package of the service that knows Kubernetes."""
