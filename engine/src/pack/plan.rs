//! What a pack will contain, decided before a byte is written: files, tensors, types.
//!
//! Knowing everything first lets a pack be written in any order, in small pieces, and go on after an
//! interruption: two plans with the same fingerprint write the same bytes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use super::{Census, Fallback, LayerSpec, PackOptions, TensorClass, spec};
use crate::error::EngineError;
use crate::expert::ExpertStore;
use crate::tensor::{DType, MatrixShape};
use crate::weights::Weights;
use crate::weights::manifest::{Manifest, TensorSpec};

/// Bytes after which a new dense file begins, so that no file of a small model is large for version
/// control.
const DENSE_FILE_BYTES: u64 = 12 << 20;

/// Types that were asked for; `None` keeps the source's.
pub(super) struct Types {
    pub(super) experts: Option<DType>,
    pub(super) dense: Option<DType>,
    /// Classes that were named, over `dense`.
    classes: BTreeMap<TensorClass, Option<DType>>,
}

impl Types {
    /// The types of some options. Errors if one is unknown or cannot be written.
    pub(super) fn of(options: &PackOptions, source_is_gguf: bool) -> Result<Self, EngineError> {
        let one = |name: &str, usual: DType| match name {
            "auto" if source_is_gguf => Ok(None),
            "auto" => Ok(Some(usual)),
            name => writable(name).map(Some),
        };
        let mut classes = BTreeMap::new();
        for (class, name) in &options.classes {
            if !TensorClass::DENSE.contains(class) {
                let what = format!("no type can be chosen for the class {}", class.name());
                return Err(EngineError::InvalidRequest(what));
            }
            classes.insert(*class, one(name, DType::Q8_0)?);
        }
        let (experts, dense) = (&options.experts, &options.dense);
        Ok(Types { experts: one(experts, DType::Q4_0)?, dense: one(dense, DType::Q8_0)?, classes })
    }

    /// The type that was asked for dense tensors of a class.
    fn of_class(&self, class: TensorClass) -> Option<DType> {
        match class {
            TensorClass::Small => None,
            _ => self.classes.get(&class).copied().unwrap_or(self.dense),
        }
    }

    /// What was asked for single classes, as the manifest lists it.
    pub(super) fn chosen_classes(&self) -> BTreeMap<String, String> {
        let word = |dtype: &Option<DType>| dtype.map_or("auto", DType::name).to_owned();
        self.classes.iter().map(|(class, dtype)| (class.name().to_owned(), word(dtype))).collect()
    }

    /// Errors if a class was named of which the model has nothing.
    fn check_used(&self, census: &Census) -> Result<(), EngineError> {
        match self.classes.keys().find(|class| !census.has(**class)) {
            None => Ok(()),
            Some(TensorClass::Output) => Err(EngineError::InvalidRequest(
                "the model has no output matrix of its own: its embedding serves, choose its type"
                    .to_owned(),
            )),
            Some(class) => Err(EngineError::InvalidRequest(format!(
                "the model has no matrix of the class {}",
                class.name()
            ))),
        }
    }
}

fn writable(name: &str) -> Result<DType, EngineError> {
    DType::from_name(name).filter(|t| t.is_writable()).ok_or_else(|| {
        let known: Vec<_> = DType::WRITABLE.iter().map(|t| t.name()).collect();
        EngineError::InvalidRequest(format!(
            "unknown type {name:?}; choose one of auto, {}",
            known.join(", ")
        ))
    })
}

/// All files of a pack but the small ones.
pub(super) struct Plan {
    pub(super) items: Vec<Item>,
    pub(super) fallbacks: Vec<Fallback>,
}

/// One file.
pub(super) enum Item {
    /// Some dense tensors.
    Dense { file: String, tensors: Vec<DenseTensor> },
    /// The experts of a layer.
    Experts { file: String, layer: usize, count: usize, shapes: [MatrixShape; 3], bytes: u64 },
}

/// A dense tensor as it is and as it will be.
pub(super) struct DenseTensor {
    pub(super) name: String,
    /// [rows, cols] in the source; a vector is one row.
    pub(super) from: MatrixShape,
    /// The same in the pack.
    pub(super) to: DType,
    /// As the manifest says it.
    shape: Vec<usize>,
}

impl DenseTensor {
    /// Bytes in the pack.
    pub(super) fn bytes(&self) -> usize {
        let shape = MatrixShape { dtype: self.to, ..self.from };
        shape.bytes().expect("a type was chosen that fits")
    }

    /// Bytes in the source.
    fn source_bytes(&self) -> u64 {
        self.from.bytes().expect("shapes of the source were checked") as u64
    }
}

impl Item {
    pub(super) fn file_name(&self) -> &str {
        match self {
            Item::Dense { file, .. } | Item::Experts { file, .. } => file,
        }
    }

    /// Bytes of the source that it is made of.
    pub(super) fn source_bytes(&self) -> u64 {
        match self {
            Item::Dense { tensors, .. } => tensors.iter().map(DenseTensor::source_bytes).sum(),
            Item::Experts { bytes, .. } => *bytes,
        }
    }

    /// Shapes of an expert's matrices in the pack. Panics on dense items (caller bug).
    pub(super) fn shapes(&self) -> [MatrixShape; 3] {
        match self {
            Item::Experts { shapes, .. } => *shapes,
            Item::Dense { .. } => panic!("dense items have no experts"),
        }
    }

    /// The pieces of source files that it is made of.
    pub(super) fn sources(
        &self,
        weights: &Weights,
        store: &ExpertStore,
    ) -> Vec<(PathBuf, Range<u64>)> {
        match self {
            Item::Dense { tensors, .. } => tensors
                .iter()
                .map(|tensor| {
                    let (file, offset, len) = weights.place(&tensor.name);
                    (file.path().to_owned(), offset..offset + len as u64)
                })
                .collect(),
            Item::Experts { layer, .. } => store
                .segments(*layer)
                .map(|s| (s.file.path().to_owned(), s.offset..s.offset + s.len as u64))
                .collect(),
        }
    }
}

impl Plan {
    pub(super) fn new(
        weights: &Weights,
        store: &ExpertStore,
        types: &Types,
    ) -> Result<Self, EngineError> {
        let mut plan = Plan { items: Vec::new(), fallbacks: Vec::new() };
        plan.add_dense(weights, types)?;
        for layer in 0..store.layers() {
            plan.add_experts(store, layer, types.experts);
        }
        types.check_used(&plan.census())?;
        Ok(plan)
    }

    /// What the pack will have of each class and type.
    pub(super) fn census(&self) -> Census {
        let mut census = Census::default();
        for item in &self.items {
            match item {
                Item::Dense { tensors, .. } => tensors.iter().for_each(|t| {
                    census.add(TensorClass::of(&t.name, &t.shape), t.to, t.bytes() as u64);
                }),
                Item::Experts { count, shapes, .. } => shapes.iter().for_each(|s| {
                    let bytes = s.bytes().expect("a type was chosen that fits") * count;
                    census.add(TensorClass::Experts, s.dtype, bytes as u64);
                }),
            }
        }
        census
    }

    fn add_dense(&mut self, weights: &Weights, types: &Types) -> Result<(), EngineError> {
        let mut all: Vec<(&str, DType, &[usize])> = weights.dense().collect();
        // Neighbours in the source stay neighbours: a model that is packed while it arrives needs few
        // of its pieces at once.
        all.sort_by_key(|(name, ..)| (layer_of(name), *name));
        let (mut tensors, mut bytes, mut files) = (Vec::new(), 0, 0);
        for (name, dtype, shape) in all {
            let wanted = types.of_class(TensorClass::of(name, shape));
            let tensor = self.dense_tensor(name, dtype, shape, wanted);
            if tensor.from.bytes().is_none() {
                return Err(EngineError::Malformed {
                    path: weights.origin().to_owned(),
                    what: format!(
                        "tensor {name:?} of shape {shape:?} is no whole number of blocks"
                    ),
                });
            }
            bytes += tensor.bytes() as u64;
            tensors.push(tensor);
            if bytes >= DENSE_FILE_BYTES {
                files += 1;
                self.push_dense(files, std::mem::take(&mut tensors));
                bytes = 0;
            }
        }
        if !tensors.is_empty() {
            self.push_dense(files + 1, tensors);
        }
        Ok(())
    }

    fn push_dense(&mut self, number: usize, tensors: Vec<DenseTensor>) {
        self.items.push(Item::Dense { file: format!("dense-{number:05}.safetensors"), tensors });
    }

    fn dense_tensor(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        wanted: Option<DType>,
    ) -> DenseTensor {
        let flat: Vec<usize> = shape.iter().copied().filter(|d| *d != 1).collect();
        let (rows, cols, to, shape) = match flat.as_slice() {
            &[rows, cols] => {
                let to = wanted.unwrap_or(dtype);
                (rows, cols, self.type_for(name, to, dtype, cols), flat)
            }
            _ => (1, shape.iter().product(), DType::F32, shape.to_vec()),
        };
        let from = MatrixShape { dtype, rows, cols };
        DenseTensor { name: name.to_owned(), from, to, shape }
    }

    fn add_experts(&mut self, store: &ExpertStore, layer: usize, wanted: Option<DType>) {
        let Some(layout) = store.layout(layer) else { return };
        let shapes = [("gate", layout.gate), ("up", layout.up), ("down", layout.down)].map(
            |(which, shape)| {
                let name = format!("layers.{layer}.experts.*.{which}");
                let to = wanted.unwrap_or(shape.dtype);
                MatrixShape { dtype: self.type_for(&name, to, shape.dtype, shape.cols), ..shape }
            },
        );
        let count = store.count(layer);
        self.items.push(Item::Experts {
            file: format!("experts-{layer:05}.safetensors"),
            layer,
            count,
            shapes,
            bytes: (layout.bytes() * count) as u64,
        });
    }

    /// The asked type, or its fallback where its blocks do not divide a row of `cols`.
    fn type_for(&mut self, name: &str, wanted: DType, from: DType, cols: usize) -> DType {
        if wanted == from {
            return wanted;
        }
        let used = wanted.fitting(cols);
        if used != wanted {
            let (asked, used) = (wanted.name(), used.name());
            self.fallbacks.push(Fallback { tensor: name.to_owned(), asked, used });
        }
        used
    }

    /// Dense tensors as the manifest lists them.
    pub(super) fn dense_specs(&self) -> std::collections::BTreeMap<String, TensorSpec> {
        let tensors = self.items.iter().flat_map(|item| match item {
            Item::Dense { tensors, .. } => tensors.as_slice(),
            Item::Experts { .. } => &[],
        });
        tensors.map(|t| (t.name.clone(), spec(t.to, &t.shape))).collect()
    }

    /// Layers as the manifest lists them.
    pub(super) fn layer_specs(&self) -> Vec<LayerSpec> {
        let one = |item: &Item| match item {
            Item::Dense { .. } => None,
            Item::Experts { file, layer, count, shapes, .. } => {
                let [gate, up, down] = shapes.map(|s| spec(s.dtype, &[s.rows, s.cols]));
                let (file, layer, count) = (file.clone(), *layer, *count);
                Some(LayerSpec { layer, file, count, gate, up, down })
            }
        };
        self.items.iter().filter_map(one).collect()
    }

    /// The types of the dense matrices: `q4_k+q6_k`.
    pub(super) fn dense_types(&self) -> String {
        let specs = self.dense_specs();
        let matrices = specs.values().filter(|s| s.shape.len() > 1);
        joined(matrices.map(|s| s.dtype.clone()))
    }

    /// The types of the experts.
    pub(super) fn expert_types(&self) -> String {
        let specs = self.layer_specs();
        joined(specs.iter().flat_map(|s| [&s.gate, &s.up, &s.down]).map(|s| s.dtype.clone()))
    }

    /// SHA-256 over everything that decides which bytes the files hold.
    pub(super) fn fingerprint(&self, weights: &Weights, manifest: &Manifest) -> String {
        let mut text = serde_json::to_string(manifest).expect("a manifest is plain data");
        for file in weights.files() {
            // Without a time (a file that is still arriving) the length must do.
            let changed = std::fs::metadata(file.path()).and_then(|m| m.modified()).ok();
            text.push_str(&format!("\n{} {changed:?}", file.len()));
        }
        for (name, dtype, shape) in weights.dense() {
            let (_, offset, _) = weights.place(name);
            text.push_str(&format!("\n{name} {dtype} {shape:?} {offset}"));
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Tensors of a pack that have another type than its manifest says was asked for, because that type's
/// blocks do not divide their rows.
pub(super) fn fallbacks(manifest: &Manifest) -> Vec<Fallback> {
    let found = |tensor: String, asked: &str, spec: &TensorSpec| {
        let (asked, used) = (DType::from_name(asked)?, DType::from_name(&spec.dtype)?);
        let cols = *spec.shape.last()?;
        let (asked_name, used_name) = (asked.name(), used.name());
        (used != asked && used == asked.fitting(cols)).then_some(Fallback {
            tensor,
            asked: asked_name,
            used: used_name,
        })
    };
    let source = &manifest.source;
    let dense = manifest.dense.iter().filter_map(|(name, spec)| {
        let class = TensorClass::of(name, &spec.shape);
        let asked = source.classes.get(class.name()).unwrap_or(&source.dense);
        if class == TensorClass::Small { None } else { found(name.clone(), asked, spec) }
    });
    let experts = manifest.experts.iter().flat_map(|layer| {
        let parts = [("gate", &layer.gate), ("up", &layer.up), ("down", &layer.down)];
        parts.map(|(which, spec)| {
            let name = format!("layers.{}.experts.*.{which}", layer.layer);
            found(name, &manifest.source.experts, spec)
        })
    });
    dense.chain(experts.flatten()).collect()
}

/// The layer of a tensor; those of the model itself come first.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("layers.")?.split_once('.')?.0.parse().ok()
}

/// Distinct types in their order: `q4_k+q6_k`.
pub(super) fn joined(types: impl Iterator<Item = String>) -> String {
    let mut all: Vec<String> = types.collect();
    all.sort();
    all.dedup();
    all.join("+")
}
