"""The studio's page in the browser, by Gradio; it makes pictures through the same `Service`."""
