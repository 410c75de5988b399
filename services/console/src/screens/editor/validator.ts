// What the form library asks of a validator, which is little: what was typed is
// checked by schema.ts. It stands in for the library's own as well (vite.config.ts),
// since that compiles code, which the pages' policy forbids.
import { Validator } from '@cfworker/json-schema'
import type { ValidatorType } from '@rjsf/utils'

const validator: ValidatorType = {
  // Asked where a schema has alternatives (anyOf, if).
  isValid: (schema, data) => new Validator(schema as object, '2020-12').validate(data).valid,
  validateFormData: () => ({ errors: [], errorSchema: {} }),
  rawValidation: () => ({ errors: [] }),
}

export default validator
