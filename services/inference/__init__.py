"""Engines that run models, and what the services that use them share."""
