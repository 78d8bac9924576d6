#include "families.h"
#include "strided.h"

namespace myconv2d::MYCONV2D_ISA {

MYCONV2D_EACH_FLOAT(MYCONV2D_STRIDED, template)

}  // namespace myconv2d::MYCONV2D_ISA
