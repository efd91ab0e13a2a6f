// float16 and bfloat16 in registers of VIREID_VECTOR_BYTES. Included inside namespace vireid_fast,
// once by each translation unit of an instruction set: no function with external linkage.
namespace {

typedef uint16_t HalfBits __attribute__((vector_size(VIREID_VECTOR_BYTES / 2)));
typedef uint32_t WordBits __attribute__((vector_size(VIREID_VECTOR_BYTES)));
typedef float Floats __attribute__((vector_size(VIREID_VECTOR_BYTES)));

template <typename To, typename From>
inline To bits_of(const From& value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  __builtin_memcpy(&result, &value, sizeof(To));
  return result;
}

inline Floats widen_bfloat16(HalfBits bits) {
  return bits_of<Floats>(__builtin_convertvector(bits, WordBits) << 16);
}

// Exact for every float16: the exponent is moved by a multiplication, which also turns
// subnormal values into normal ones.
inline Floats widen_float16(HalfBits bits) {
  const WordBits word = __builtin_convertvector(bits, WordBits);
  const WordBits magnitude = (word & 0x7fff) << 13;
  const WordBits moved = bits_of<WordBits>(bits_of<Floats>(magnitude) * 0x1p112f);
  const WordBits special = magnitude | 0x7f800000;
  const WordBits chosen = magnitude >= 0x0f800000 ? special : moved;
  return bits_of<Floats>(chosen | (word & 0x8000) << 16);
}

inline HalfBits narrow_to_bfloat16(Floats value) {
  const WordBits bits = bits_of<WordBits>(value);
  const WordBits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const WordBits quiet = (bits >> 16) | 0x40;
  const WordBits chosen = (bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded;
  return __builtin_convertvector(chosen, HalfBits);
}

// Round to nearest even. Below 2^-14 an addition rounds to the spacing of subnormal values.
inline HalfBits narrow_to_float16(Floats value) {
  const WordBits bits = bits_of<WordBits>(value);
  const WordBits sign = bits & 0x80000000;
  const WordBits magnitude = bits ^ sign;
  const WordBits nan = (magnitude > 0x7f800000) & 0x200;
  const WordBits special = 0x7c00 | nan;
  const WordBits small = bits_of<WordBits>(bits_of<Floats>(magnitude) + 0.5f) - 0x3f000000;
  const WordBits normal = (magnitude + 0xc8000fff + ((magnitude >> 13) & 1)) >> 13;
  const WordBits finite = magnitude < 0x38800000 ? small : normal;
  const WordBits chosen = (magnitude >= 0x47800000 ? special : finite) | sign >> 16;
  return __builtin_convertvector(chosen, HalfBits);
}

}  // namespace
