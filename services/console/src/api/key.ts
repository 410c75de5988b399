/** A new Idempotency-Key. crypto.randomUUID is for secure contexts only, and a console
 * on plain http inside a company's network is none. */
export function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('')
}
