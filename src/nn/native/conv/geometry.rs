//! The shapes of a convolution.

/// The shapes of one convolution; pairs are (rows, columns).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nn::native) struct Geometry {
    pub images: usize,
    pub size: [usize; 2],
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    /// Use Winograd's algorithm where it applies.
    pub winograd: bool,
}

impl Geometry {
    /// Rows and columns of the output.
    pub fn out(&self) -> [usize; 2] {
        std::array::from_fn(|i| (self.size[i] + 2 * self.padding[i] - self.kernel[i]) / self.stride[i] + 1)
    }

    /// Pixels of an image, input and output.
    pub fn pixels(&self) -> [usize; 2] {
        [self.size, self.out()].map(|[rows, columns]| rows * columns)
    }

    /// Elements of the kernel.
    pub fn weights(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.inputs * self.outputs
    }

    /// Whether it is a 1x1 convolution that maps pixels one by one.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0]
    }

    /// The same convolution restricted to the pixels that it reads, if these are fewer: a 1x1 kernel with a stride.
    pub fn sampled(&self) -> Option<Self> {
        let sampled = self.kernel == [1, 1] && self.padding == [0, 0] && self.stride != [1, 1];
        sampled.then(|| Self { size: self.out(), stride: [1, 1], ..*self })
    }

    /// Whether Winograd's algorithm applies, and there are enough channels to be worth its transforms.
    pub fn is_winograd(&self) -> bool {
        self.winograd && self.inputs >= 16 && self.kernel == [3, 3] && self.stride == [1, 1] && self.padding == [1, 1]
    }
}
