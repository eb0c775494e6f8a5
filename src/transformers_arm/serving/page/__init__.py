"""The web page over an `Engine`. `fields` and `shown` say what its fields mean and how events look, without Gradio;
`components`, `tabs` and `blocks` are Gradio's.
"""
