// What the server sends: a header in JSON, then arrays of float32, float64 or bytes (see message.py).

const KINDS = { u1: Uint8Array, f4: Float32Array, f8: Float64Array };

export class Refused extends Error {}

export async function fetchPicture(query) {
  const answer = await fetch(`/picture?${query}`);
  // A refusal comes with status 200: browsers report every other one as an error of the page.
  if (answer.headers.get("content-type").startsWith("application/json")) throw new Refused((await answer.json()).error);
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  return unpacked(await answer.arrayBuffer());
}

export function unpacked(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  let offset = 4 + length;
  for (const [name, { shape, type }] of Object.entries(header.arrays)) {
    const count = shape.reduce((a, b) => a * b, 1);
    const Kind = KINDS[type];
    const size = count * Kind.BYTES_PER_ELEMENT;
    const aligned = offset % Kind.BYTES_PER_ELEMENT === 0; // eight bytes may begin between
    arrays[name] = { shape, values: aligned ? new Kind(buffer, offset, count) : new Kind(buffer.slice(offset, offset + size)) };
    offset += Math.ceil(size / 4) * 4;
  }
  return { ...header, arrays };
}

// The place of the last entry that is not beyond value, of numbers in rising order.
export function placeOf(numbers, value) {
  let low = 0;
  let high = numbers.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (numbers[middle] <= value) low = middle;
    else high = middle - 1;
  }
  return low;
}
