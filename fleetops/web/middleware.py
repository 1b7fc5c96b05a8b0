"""Request context for logs and audit, and UserError's page."""
