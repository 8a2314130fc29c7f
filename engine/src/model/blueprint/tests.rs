//! Configs as they are found: nested and flat, with names and fields that come and go.

use serde_json::json;

use super::*;

/// A config with every field that all families need.
fn config(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "hidden_size": 64, "num_hidden_layers": 6, "vocab_size": 100,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 48, "intermediate_size": 96,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
        "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4,
    })
}

fn with(model_type: &str, fields: Value) -> Value {
    let mut config = config(model_type);
    for (name, value) in fields.as_object().expect("an object") {
        config[name] = value.clone();
    }
    config
}

fn read(config: &Value) -> Blueprint {
    Blueprint::read(Path::new("config.json"), config).expect("a good config")
}

fn error(config: &Value) -> String {
    Blueprint::read(Path::new("config.json"), config).expect_err("refused").to_string()
}

#[test]
fn nested_and_flat_configs_read_alike() {
    for family in FAMILIES {
        let flat = with(family.model_types[0], json!({"tie_word_embeddings": true}));
        let mut text = flat.clone();
        text.as_object_mut().expect("an object").remove("tie_word_embeddings");
        let nested = json!({
            "model_type": "whatever", "text_config": text, "vision_config": {"hidden_size": 7},
            "tie_word_embeddings": true,
        });
        assert_eq!(read(&nested), read(&flat));
        assert!(read(&flat).config.tied);
    }
}

#[test]
fn what_a_file_leaves_out_is_as_in_the_config_class() {
    let [hybrid, next, qwen3, qwen2] =
        ["qwen3_5_moe", "qwen3_next", "qwen3_moe", "qwen2_moe"].map(|name| read(&config(name)));
    for (blueprint, head_dim, rotary_dim, normalise) in [
        (&hybrid, 256, 64, true),
        (&next, 256, 64, true),
        (&qwen3, 16, 16, false),
        (&qwen2, 16, 16, false),
    ] {
        assert_eq!(blueprint.attention.shape.head_dim, head_dim);
        assert_eq!(blueprint.config.rotary_dim, rotary_dim);
        assert_eq!(blueprint.moe.normalise, normalise);
        assert_eq!((blueprint.config.rope_theta, blueprint.config.norm_eps), (10_000.0, 1e-6));
        assert!(!blueprint.config.tied && !blueprint.attention.o_bias);
    }
    assert!(qwen2.attention.qkv_bias && !qwen3.attention.qkv_bias);
    assert_eq!(qwen3.moe.shared, None);
    assert_eq!(qwen2.moe.shared, Some(48));
    let attention = |b: &Blueprint| -> Vec<usize> {
        let full = b.layers.iter().enumerate().filter(|(_, l)| l.mixer == MixerKind::Attention);
        full.map(|(i, _)| i).collect()
    };
    assert_eq!((attention(&hybrid), attention(&next)), (vec![3], vec![3]));
    assert_eq!(attention(&qwen2).len(), 6);
}

#[test]
fn the_largest_sizes_that_a_config_may_have_overflow_nothing() {
    let mut huge = config("qwen3_5_moe");
    for (name, value) in huge.as_object_mut().expect("an object") {
        if value.is_u64() && name != "num_hidden_layers" {
            *value = json!(1 << 22);
        }
    }
    huge["head_dim"] = json!(1 << 22);
    let footprint = read(&huge).footprint();
    assert_eq!(footprint.sequence_bytes, u64::MAX, "5 states of 2^66 floats");
    assert!(footprint.kv_bytes_per_token > 1 << 44 && footprint.scratch_bytes_per_row > 1 << 44);
}

#[test]
fn rotary_numbers_are_found_where_old_and_new_files_have_them() {
    for fields in [
        json!({"rope_theta": 5e6, "partial_rotary_factor": 0.5, "rope_scaling": null}),
        json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e6,
               "partial_rotary_factor": 0.5, "mrope_section": [11, 11, 10]}}),
    ] {
        let config = read(&with("qwen3_next", fields)).config;
        assert_eq!((config.rope_theta, config.rotary_dim), (5e6, 128));
    }
}

#[test]
fn experts_may_go_by_the_name_that_transformers_saves() {
    let mut config = config("qwen3_moe");
    let fields = config.as_object_mut().expect("an object");
    let count = fields.remove("num_experts").expect("there");
    fields.insert("num_local_experts".to_owned(), count);
    assert_eq!(read(&config).experts(), 8);
}

#[test]
fn layers_without_experts_are_those_of_the_step_and_the_list() {
    for (fields, expected) in [
        (json!({}), "eeeeee"),
        (json!({"decoder_sparse_step": 2}), "-e-e-e"),
        (json!({"mlp_only_layers": [0, 3]}), "-ee-ee"),
        (json!({"decoder_sparse_step": 2, "mlp_only_layers": [3]}), "-e---e"),
    ] {
        for family in ["qwen3_next", "qwen3_moe", "qwen2_moe"] {
            let layers = read(&with(family, fields.clone())).expert_layers();
            let kinds: String =
                layers.iter().map(|l| if l.is_some() { 'e' } else { '-' }).collect();
            assert_eq!(kinds, expected, "{family} {fields}");
        }
    }
}

#[test]
fn an_architecture_that_does_not_run_is_named_with_those_that_do() {
    let text = error(&config("mamba9"));
    for name in ["mamba9", "qwen3_5_moe", "qwen3_next", "qwen3_moe", "qwen2_moe"] {
        assert!(text.contains(name), "{text}");
    }
    assert!(error(&json!({})).contains("qwen3_moe"));
}

#[test]
fn what_would_run_wrongly_is_refused_by_name() {
    for (fields, says) in [
        (json!({"rope_scaling": {"type": "yarn", "factor": 4.0}}), "yarn"),
        (json!({"rope_parameters": {"rope_type": "linear"}}), "linear"),
        (json!({"use_sliding_window": true}), "use_sliding_window"),
        (json!({"hidden_act": "gelu"}), "hidden_act"),
        (json!({"num_experts_per_tok": 9}), "num_experts_per_tok"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        (json!({"mlp_only_layers": "all"}), "mlp_only_layers"),
        (json!({"mlp_only_layers": [0, 1, 2, 3, 4, 5]}), "mlp_only_layers"),
        (json!({"decoder_sparse_step": 0}), "decoder_sparse_step"),
        (json!({"mlp_only_layers": [0], "intermediate_size": null}), "intermediate_size"),
        (json!({"norm_topk_prob": 1}), "norm_topk_prob"),
        (json!({"rms_norm_eps": -1.0}), "rms_norm_eps"),
    ] {
        let text = error(&with("qwen3_moe", fields.clone()));
        assert!(text.contains(says), "{fields}: {text}");
    }
    for (fields, says) in [
        (json!({"linear_num_key_heads": 3}), "linear_num_key_heads"),
        (json!({"layer_types": ["full_attention"]}), "layer_types"),
        (json!({"layer_types": ["full_attention", "x", "x", "x", "x", "x"]}), "layer_types"),
    ] {
        let text = error(&with("qwen3_5_moe", fields.clone()));
        assert!(text.contains(says), "{fields}: {text}");
    }
}
