#include "families.h"
#include "grad_weight.h"
#include "phases.h"

namespace myconv2d::MYCONV2D_ISA {

MYCONV2D_EACH_TYPE(MYCONV2D_DIRECT, template)

}  // namespace myconv2d::MYCONV2D_ISA
