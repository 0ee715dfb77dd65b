// Large memory blocks that outlive their tensors. An output of a gigabyte costs more in first
// touches than in arithmetic, and a training step asks for the same sizes again and again.
#pragma once
#include <cstddef>
#include <cstdint>

namespace graphkit {

// A block of at least `bytes`, on huge pages where the system has them; null if there is none.
void *take_block(int64_t bytes, int64_t &size);

// Keep the block for the next request of its size, or return it to the system when more than the
// limit would be kept. The system may take a kept block's pages back at any time (MADV_FREE).
void give_block(void *block, int64_t size);

// Return every kept block to the system.
void drop_blocks();

int64_t kept_bytes();

// How much may be kept; 0 keeps nothing. Also asks malloc, where it is glibc's, not to return the
// top of its heap after every step: tensors below a block's size are a step's other first touches.
void set_kept_limit(int64_t bytes);

}  // namespace graphkit
