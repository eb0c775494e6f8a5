"""What users put around layers, or ask of them, that short steps cannot heed."""


def slides(model):
    """The second layer sees four places; of transformers' own making."""
    model.config.layer_types = model.model.config.layer_types = ["full_attention", "sliding_attention"]
    model.config.sliding_window, model.config.use_sliding_window = 4, True
    layer = model.model.layers[1]
    layer.attention_type, layer.self_attn.sliding_window = "sliding_attention", 4
    layer.self_attn.layer_type = "sliding_attention"
    if hasattr(model.model, "has_sliding_layers"):
        model.model.has_sliding_layers = True


def hooked(model):
    model.model.layers[0].register_forward_hook(lambda module, args, output: output * 3)
